"""An output's labels in the formats of those who use them. Needs neither Ray nor torch.

formats  what each format makes of the labels
captions one caption for each image, as trainers read them
images   what a file says of an image, so that its reader finds it
hub      a data set on the Hugging Face Hub
export   one file, whole or not there
"""
