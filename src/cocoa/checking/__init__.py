"""Training data looked at before it is paid for: what is broken, repeated, leaked or left unread."""
