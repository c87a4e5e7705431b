"""CycloneDX 1.6 with a model card, written by hand since its library has none, and validated with that library's schema."""

import json
from typing import TYPE_CHECKING, Any

from seekling.release.bom.shared import USE, description, identifier
from seekling.release.licences import ids_of

if TYPE_CHECKING:
    from seekling.release.material import Release
    from seekling.release.sources import SourceFacts

CDX_VERSION = "1.6"


def cyclonedx(release: "Release", hashes: dict[str, str]) -> dict[str, Any]:
    """The document as JSON values."""
    from seekling.release.code import installed_closure

    model, code = f"model/{release.name}", "code/seekling"
    sources = {source_ref(s): s for s in release.chain.sources}
    libraries = [
        {"type": "library", "bom-ref": f"pkg:pypi/{n}@{v}", "name": n, "version": v, "purl": f"pkg:pypi/{n}@{v}"}
        for n, v in installed_closure()
    ]
    ancestors = [
        {
            "type": "machine-learning-model",
            "bom-ref": f"ancestor/{a.name}",
            "name": a.name,
            **_version(a.revision),
            **_licences(a.licence),
            **({"hashes": [{"alg": "SHA-256", "content": a.hash}]} if a.hash else {}),
        }
        for a in (*release.chain.base_models, *release.chain.teachers)
    ]
    files = [
        {"type": "file", "bom-ref": f"file/{p}", "name": p, "hashes": [{"alg": "SHA-256", "content": h}]}
        for p, h in hashes.items()
    ]
    seekling = {
        "type": "application",
        "bom-ref": code,
        "name": "seekling",
        "version": release.code["version"],
        **_licences("MIT"),
        "hashes": [{"alg": "SHA-256", "content": hashes[release.code["archive"]]}],
    }
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": CDX_VERSION,
        "serialNumber": f"urn:uuid:{identifier(release, 'cyclonedx')}",
        "version": 1,
        "metadata": {
            "timestamp": release.date,
            "tools": {"components": [{"type": "application", "name": "seekling", "version": release.code["version"]}]},
            **({"manufacturer": _organisation(release)} if release.about.producer.get("name") else {}),
            "component": {
                "type": "machine-learning-model",
                "bom-ref": model,
                "name": release.name,
                "version": release.version,
                "description": description(release),
                **_licences(release.options.licence),
                "modelCard": model_card(release, list(sources)),
            },
        },
        "components": [*(data_component(ref, s) for ref, s in sources.items()), seekling, *ancestors, *libraries, *files],
        "dependencies": [
            {"ref": model, "dependsOn": [*sources, code, *(a["bom-ref"] for a in ancestors)]},
            {"ref": code, "dependsOn": [row["bom-ref"] for row in libraries]},
        ],
    }


def source_ref(source: "SourceFacts") -> str:
    return f"data/{source.stage}/{source.name}"


def model_card(release: "Release", refs: list[str]) -> dict[str, Any]:
    """CycloneDX's model card."""
    from seekling.release.cards import limits

    metrics = []
    for score in release.scores:
        for name, (value, _, low, high) in score.metrics.items():
            row: dict[str, Any] = {"type": name, "value": f"{value:.6g}", "slice": score.task}
            if low is not None and high is not None:
                row["confidenceInterval"] = {"lowerBound": f"{low:.6g}", "upperBound": f"{high:.6g}"}
            metrics.append(row)
    later = len(release.chain.stages) > 1 or bool(release.chain.base_models)
    approach = "supervised" if later else "self-supervised"
    if release.chain.last.verb == "grpo":
        approach = "reinforcement-learning"
    considerations: dict[str, Any] = {
        "useCases": [release.about.model.get("use") or USE],
        "technicalLimitations": limits(release),
        "ethicalConsiderations": [
            {
                "name": "it may repeat its training text or offend",
                "mitigationStrategy": "none in the weights; label and check what it writes",
            }
        ],
    }
    hours = release.compute["watt_hours"]
    if hours is not None:
        energy = {"value": hours / 1000, "unit": "kWh"}
        provider = {"organization": {"name": "unknown"}, "energySource": "unknown", "energyProvided": energy}
        considerations["environmentalConsiderations"] = {
            "energyConsumptions": [{"activity": "training", "energyProviders": [provider], "activityEnergyCost": energy}]
        }
    return {
        "modelParameters": {
            "approach": {"type": approach},
            "task": "text generation",
            "architectureFamily": "transformer",
            "modelArchitecture": release.config.model_type,
            "datasets": [{"ref": ref} for ref in refs],
            "inputs": [{"format": "text"}],
            "outputs": [{"format": "text"}],
        },
        "quantitativeAnalysis": {"performanceMetrics": metrics},
        "considerations": considerations,
    }


def data_component(ref: str, source: "SourceFacts") -> dict[str, Any]:
    """A source as a component of type data."""
    details = {
        "stage": source.stage,
        "kind": source.kind,
        "where": source.where,
        "language": source.language,
        "osaid": source.osaid_kind,
        "documents": source.documents,
        "bytes": source.bytes,
        "tokens": source.tokens,
        "share": source.share,
    }
    known = [{"name": f"seekling:{k}", "value": str(v)} for k, v in details.items() if v not in (None, "")]
    data: dict[str, Any] = {"type": "dataset", "name": source.name}
    if source.about:
        data["description"] = source.about
    if source.attribution:
        data["governance"] = {"owners": [{"organization": {"name": source.attribution}}]}
    purl = {"purl": source.url} if (source.url or "").startswith("pkg:") else {}
    return {
        "type": "data",
        "bom-ref": ref,
        "name": source.name,
        **_version(source.version),
        **purl,
        **_licences(source.licence),
        **({"hashes": [{"alg": "SHA-256", "content": source.sha256}]} if source.sha256 else {}),
        "data": [data],
        "properties": known,
    }


def _version(version: str | None) -> dict[str, str]:
    return {"version": version} if version else {}


def _licences(expression: str | None) -> dict[str, Any]:
    if not expression:
        return {}
    ids = ids_of(expression)
    if len(ids) == 1 and ids[0] == expression:
        kind = "name" if expression.startswith("LicenseRef-") else "id"
        return {"licenses": [{"license": {kind: expression}}]}
    return {"licenses": [{"expression": expression}]}


def _organisation(release: "Release") -> dict[str, Any]:
    producer, contact = release.about.producer, release.about.producer.get("contact", "")
    return {"name": producer["name"], **({"contact": [{"email": contact}]} if "@" in contact and " " not in contact else {})}


def cyclonedx_problems(document: dict[str, Any]) -> list[str]:
    """What CycloneDX's own schema has against a document."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(document))
    return [] if error is None else [str(getattr(error, "data", error))[:400]]
