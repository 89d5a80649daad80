"""Model + image -> image, tile by tile."""
