"""What every room may use: errors, files, text, random numbers and collectives."""
