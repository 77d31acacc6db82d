"""The pairs that are shipped and their worlds: questions whose answers a program can grade."""
