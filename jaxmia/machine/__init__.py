"""Whether a machine is fit and how fast it trains."""
