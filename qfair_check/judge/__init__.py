"""An audit and limits become verdicts."""
