"""Metrics, health and a page to look at, over HTTP. What is shown is read off the pool when somebody asks; a query pays
nothing for it."""
