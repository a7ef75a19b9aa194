"""An audit and verdicts become something a person reads."""
