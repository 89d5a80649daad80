"""crosscope."""
