"""Raw pair -> registered pair, with a certificate of what is left."""
