"""Cores with an external memory: RMC, DNC and RMA, with any gate mechanism."""
