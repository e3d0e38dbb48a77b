"""What the dashboards are made from: `python3 dashboards/generate.py` writes them."""
