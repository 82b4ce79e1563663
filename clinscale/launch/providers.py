"""Regions and GPU machines of the three clouds, as far as this release knows them."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Machine:
    """A machine type that can be rented: its name at the provider, virtual CPUs and GPUs."""

    name: str
    cpus: int
    gpus: int


# fmt: off
AWS_REGIONS = [
    "us-east-1", "us-east-2", "us-west-1", "us-west-2", "ca-central-1", "sa-east-1", "eu-central-1",
    "eu-central-2", "eu-north-1", "eu-south-1", "eu-south-2", "eu-west-1", "eu-west-2", "eu-west-3",
    "ap-east-1", "ap-northeast-1", "ap-northeast-2", "ap-northeast-3", "ap-south-1", "ap-southeast-1",
    "ap-southeast-2", "il-central-1", "me-central-1", "me-south-1", "af-south-1",
]
# fmt: on

# fmt: off
GCP_REGIONS = [
    "us-central1", "us-east1", "us-east4", "us-east5", "us-south1", "us-west1", "us-west2", "us-west3",
    "us-west4", "northamerica-northeast1", "northamerica-northeast2", "southamerica-east1",
    "southamerica-west1", "europe-central2", "europe-north1", "europe-southwest1", "europe-west1",
    "europe-west2", "europe-west3", "europe-west4", "europe-west6", "europe-west8", "europe-west9",
    "europe-west12", "asia-east1", "asia-east2", "asia-northeast1", "asia-northeast2", "asia-northeast3",
    "asia-south1", "asia-south2", "asia-southeast1", "asia-southeast2", "australia-southeast1",
    "australia-southeast2", "me-central1", "me-central2", "me-west1", "africa-south1",
]
# fmt: on

# fmt: off
AZURE_LOCATIONS = [
    "eastus", "eastus2", "centralus", "northcentralus", "southcentralus", "westcentralus", "westus",
    "westus2", "westus3", "canadacentral", "canadaeast", "brazilsouth", "northeurope", "westeurope",
    "francecentral", "germanywestcentral", "norwayeast", "swedencentral", "switzerlandnorth", "italynorth",
    "polandcentral", "spaincentral", "uksouth", "ukwest", "australiaeast", "centralindia", "southindia",
    "eastasia", "southeastasia", "japaneast", "japanwest", "koreacentral", "qatarcentral", "uaenorth",
    "israelcentral", "southafricanorth",
]
# fmt: on

AWS_MACHINES = {
    "t4": (Machine("g4dn.2xlarge", 8, 1), Machine("g4dn.4xlarge", 16, 1)),
    "a10g": (Machine("g5.2xlarge", 8, 1), Machine("g5.4xlarge", 16, 1)),
    "l4": (Machine("g6.2xlarge", 8, 1), Machine("g6.4xlarge", 16, 1)),
    "l40s": (Machine("g6e.2xlarge", 8, 1), Machine("g6e.4xlarge", 16, 1)),
    "a100": (Machine("p4d.24xlarge", 96, 8), Machine("p4de.24xlarge", 96, 8)),
    "h200": (Machine("p5en.48xlarge", 192, 8), Machine("p5e.48xlarge", 192, 8)),
}
GCP_MACHINES = {
    "l4": (Machine("g2-standard-8", 8, 1), Machine("g2-standard-12", 12, 1)),
    "a100": (Machine("a2-highgpu-1g", 12, 1), Machine("a2-highgpu-2g", 24, 2)),
    "a100-80gb": (Machine("a2-ultragpu-1g", 12, 1), Machine("a2-ultragpu-2g", 24, 2)),
    "h100": (Machine("a3-highgpu-1g", 26, 1), Machine("a3-highgpu-2g", 52, 2)),
}
AZURE_MACHINES = {
    "t4": (Machine("Standard_NC8as_T4_v3", 8, 1), Machine("Standard_NC16as_T4_v3", 16, 1)),
    "a10": (Machine("Standard_NV36ads_A10_v5", 36, 1), Machine("Standard_NV72ads_A10_v5", 72, 2)),
    "a100": (Machine("Standard_NC24ads_A100_v4", 24, 1), Machine("Standard_NC48ads_A100_v4", 48, 2)),
    "h100": (Machine("Standard_NC40ads_H100_v5", 40, 1), Machine("Standard_NC80adis_H100_v5", 80, 2)),
}
"""GPU -> the machines that carry it: several, since spot capacity of one type runs out; the first is preferred."""
