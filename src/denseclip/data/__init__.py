"""Pictures, data sets and sticker scenes."""
