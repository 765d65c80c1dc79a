"""Language modelling on text corpora."""
