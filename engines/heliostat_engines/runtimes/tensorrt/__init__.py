"""An engine that runs compiled plans, and how adapters reach it."""
