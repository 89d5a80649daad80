"""Model + image + output -> how far the output can be believed."""
