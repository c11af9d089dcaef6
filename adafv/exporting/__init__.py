"""An output's labels in other tools' formats. Needs neither Ray nor torch.

formats   what each format makes of the labels
shards    WebDataset tars with images and captions
detections  boxes in answers as COCO detections
captions  one caption per image, as trainers read them
images    how a file names an image, so that its reader finds it
hub       a data set on the Hugging Face Hub
export    one exported file
"""
