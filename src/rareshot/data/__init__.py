"""Data: one type past loading, its readers, the store, the synthetic set."""
