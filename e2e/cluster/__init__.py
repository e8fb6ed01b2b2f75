"""Providers of a local Kubernetes: kind, embedded (no Docker needed), or the one of the current kubeconfig."""
