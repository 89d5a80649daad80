"""Images -> a number, one file per measure."""
