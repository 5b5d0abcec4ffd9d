"""What the MindSpore directories share, in GRAPH mode. Nothing else imports it."""
