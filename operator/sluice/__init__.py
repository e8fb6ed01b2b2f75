"""Sluice: a Kubernetes operator for Apache Kafka whose speciality is replay."""

__version__ = "0.1.0"
