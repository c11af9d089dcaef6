"""Where bytes are: `storage`, access to S3 and other file systems; `s3`, the meaning of its errors; `objects`,
checked reads of S3 objects; `hub`, data sets on the Hugging Face Hub; `output`, a folder of whole files, local or on
S3; `retry`, retries of what may pass."""
