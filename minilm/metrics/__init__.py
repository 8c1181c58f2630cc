"""Measures of predictions, each equal to the tool its community trusts; numpy alone, no torch."""
