"""Datasets: tables that tasks fill and read, their typed values, and how rows get into them."""
