"""A real Kubernetes on one Linux machine without Docker: its own etcd, control plane, containerd and kubelet."""
