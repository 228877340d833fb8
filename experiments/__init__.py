"""One runnable module per published table or figure, and per question of ours. `python -m experiments` lists them."""
