"""What Kubernetes and KubeRay make of manifests; asks no cluster but in `bridge`."""
