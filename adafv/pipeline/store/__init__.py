"""Where bytes lie: `storage`, how to reach S3 and other file systems; `s3`, what its errors mean; `objects`, reading an
object whole and checked; `hub`, data sets of the Hugging Face Hub; `output`, a folder of whole files, local or on S3;
`retry`, asking again for what may pass."""
