"""From what callers send to what models take: strings, files, pixels."""
