"""The dashboard: the control plane's operations as pages, made on the server."""
