"""Artifacts: stored files (reports, attachments, archives), found by their content, in a folder or an S3-style store."""

from beatline.artifacts.errors import ArtifactLostError
from beatline.artifacts.naming import safe_name
from beatline.artifacts.store import Artifact, ArtifactStore, Stored

__all__ = ["Artifact", "ArtifactLostError", "ArtifactStore", "Stored", "safe_name"]
