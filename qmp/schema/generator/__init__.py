"""The parts of generate.py: the schema as data, its reader and its checker, and one module per output."""
