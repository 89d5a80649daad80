"""Model + test pairs -> numbers and figures."""
