"""From arrays and options to commands: a call checked, planned, and queued."""
