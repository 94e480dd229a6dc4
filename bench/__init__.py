"""Benches: models at real sizes, and qrt measured against its rivals. Mirrors `qrt/`."""
