"""Bills of materials: CycloneDX 1.6 with a model card (ML-BOM), and SPDX 3.0.1 with its AI and Dataset profiles.

Both list the same model, data, code, libraries and file hashes. CycloneDX is written by hand, since its Python library has no
model cards, and validated with that library's schema; SPDX is written through the bindings generated from its model, which
refuse what the model does not allow.
"""

import io
import json
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seekling.errors import SeeklingError
from seekling.release.layout import CYCLONEDX, SPDX, files_of, sha256
from seekling.release.licences import ids_of

if TYPE_CHECKING:
    from seekling.release.material import Release
    from seekling.release.sources import SourceFacts

CDX_VERSION = "1.6"
USE = "Study and teaching: how a DeepSeek-style language model is trained, changed, served and released."


def write_boms(folder: Path, release: "Release") -> None:
    """Write both files.

    Raises:
        SeeklingError: one is not valid against its schema, which would be our mistake.
    """
    (folder / CYCLONEDX).parent.mkdir(parents=True)
    hashes = {p.as_posix(): sha256(folder / p) for p in files_of(folder)}
    cdx = cyclonedx(release, hashes)
    problems = cyclonedx_problems(cdx)
    if problems:
        raise SeeklingError(f"the CycloneDX bill of materials came out invalid: {problems[0]}")
    (folder / CYCLONEDX).write_text(json.dumps(cdx, ensure_ascii=False, indent=1) + "\n", "utf-8")
    (folder / SPDX).write_bytes(spdx_document(release, hashes))


def locked(release: "Release") -> list[tuple[str, str]]:
    """Name and version of the libraries."""
    from seekling.release.code import installed_closure

    return installed_closure()


def identifier(release: "Release", what: str) -> str:
    """A UUID that follows from the release, so that equal releases have equal documents."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"seekling/{release.name}/{release.version}/{release.date}/{what}"))


# ---- CycloneDX -------------------------------------------------------------------------------------------------------


def cyclonedx(release: "Release", hashes: dict[str, str]) -> dict[str, Any]:
    """The document as JSON values."""
    model, code = f"model/{release.name}", "code/seekling"
    sources = {source_ref(s): s for s in release.chain.sources}
    libraries = [
        {"type": "library", "bom-ref": f"pkg:pypi/{n}@{v}", "name": n, "version": v, "purl": f"pkg:pypi/{n}@{v}"}
        for n, v in locked(release)
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
                "description": release.about.model.get("description") or f"A {release.config.model_type} language model.",
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


# ---- SPDX 3 ----------------------------------------------------------------------------------------------------------


def spdx_document(release: "Release", hashes: dict[str, str]) -> bytes:
    """The document as JSON-LD bytes."""
    from spdx_python_model import v3_0_1 as spdx

    base = f"urn:spdx.dev:{identifier(release, 'spdx')}/"
    made = spdx.SHACLObjectSet()
    agent = spdx.Organization(_id=base + "producer", name=release.producer)
    info = spdx.CreationInfo(_id="_:creation", created=release.released, specVersion="3.0.1", createdBy=[agent])
    agent.creationInfo = info
    tool = spdx.Tool(_id=base + "tool", creationInfo=info, name=f"seekling {release.code['version']}")
    info.createdUsing = [tool]
    made.add(agent)
    made.add(tool)
    elements: list[Any] = [agent, tool]

    def add(element: Any) -> Any:
        elements.append(element)
        made.add(element)
        return element

    licences: dict[str, Any] = {}

    def licence(expression: str) -> Any:
        if expression not in licences:
            licences[expression] = add(
                spdx.simplelicensing_LicenseExpression(
                    _id=f"{base}licence/{len(licences)}", creationInfo=info, simplelicensing_licenseExpression=expression
                )
            )
        return licences[expression]

    def relate(start: Any, kind: str, ends: list[Any]) -> None:
        add(
            spdx.Relationship(
                _id=f"{base}relation/{len(elements)}",
                creationInfo=info,
                from_=start,
                relationshipType=getattr(spdx.RelationshipType, kind),
                to=ends,
            )
        )

    def licensed(element: Any, expression: str) -> Any:
        relate(element, "hasDeclaredLicense", [licence(expression)])
        relate(element, "hasConcludedLicense", [licence(expression)])
        return element

    model = licensed(add(ai_package(spdx, base, info, agent, release)), release.options.licence)
    data = [
        licensed(add(dataset_package(spdx, base, info, agent, release, number, source)), source.licence)
        for number, source in enumerate(release.chain.sources)
    ]
    code = licensed(
        add(
            spdx.software_Package(
                _id=base + "code",
                creationInfo=info,
                name="seekling",
                software_packageVersion=release.code["version"],
                software_primaryPurpose=spdx.software_SoftwarePurpose.application,
                verifiedUsing=[spdx.Hash(algorithm=spdx.HashAlgorithm.sha256, hashValue=hashes[release.code["archive"]])],
            )
        ),
        "MIT",
    )
    files = [
        add(
            spdx.software_File(
                _id=f"{base}file/{number}",
                creationInfo=info,
                name=path,
                verifiedUsing=[spdx.Hash(algorithm=spdx.HashAlgorithm.sha256, hashValue=digest)],
            )
        )
        for number, (path, digest) in enumerate(hashes.items())
    ]
    if data:
        relate(model, "trainedOn", data)
    relate(model, "contains", files)
    relate(model, "dependsOn", [code])
    for number, a in enumerate((*release.chain.base_models, *release.chain.teachers)):
        before = add(
            spdx.ai_AIPackage(
                _id=f"{base}ancestor/{number}",
                creationInfo=info,
                name=a.name,
                **_package(spdx, agent, release, a.revision, a.url),
            )
        )
        licensed(before, a.licence or "NOASSERTION")
        relate(model, "descendantOf", [before])
    profiles = ("core", "software", "ai", "dataset", "simpleLicensing")
    made.add(
        spdx.SpdxDocument(
            _id=base + "document",
            creationInfo=info,
            name=f"{release.name} {release.version}",
            rootElement=[model],
            element=elements,
            dataLicense=licence("CC0-1.0"),
            profileConformance=[getattr(spdx.ProfileIdentifierType, p) for p in profiles],
        )
    )
    held = io.BytesIO()
    spdx.JSONLDSerializer().write(made, held, indent=1)
    return held.getvalue() + b"\n"


def _package(spdx: Any, agent: Any, release: "Release", version: str | None, url: str | None) -> dict[str, Any]:
    """What the AI profile asks of every package."""
    return {
        "software_packageVersion": version or "not stated",
        "software_downloadLocation": url or "urn:seekling:not-published-yet",
        "software_primaryPurpose": spdx.software_SoftwarePurpose.model,
        "suppliedBy": agent,
        "releaseTime": release.released,
    }


def ai_package(spdx: Any, base: str, info: Any, agent: Any, release: "Release") -> Any:
    """The model."""
    from seekling.release.cards import limits

    stages = ", then ".join(f"{f['verb']} ({f['steps']:,} steps, seed {f['seed']})" for f in release.stage_facts)
    entry = spdx.DictionaryEntry
    metrics = [
        entry(key=f"{score.task} {name}", value=f"{value:.6g}")
        for score in release.scores
        for name, (value, *_) in score.metrics.items()
    ]
    settings = [entry(key=key, value=str(value)) for key, value in hyperparameters(release).items()]
    energy = None
    if release.compute["watt_hours"] is not None:
        spent = spdx.ai_EnergyConsumptionDescription(
            # SPDX's schema takes no exponent, which Python writes below 0.0001
            ai_energyQuantity=round(release.compute["watt_hours"] * 0.0036, 4),
            ai_energyUnit=spdx.ai_EnergyUnitType.megajoule,
        )
        energy = spdx.ai_EnergyConsumption(ai_trainingEnergyConsumption=[spent])
    return spdx.ai_AIPackage(
        _id=base + "model",
        creationInfo=info,
        name=release.name,
        description=release.about.model.get("description") or f"A {release.config.model_type} language model.",
        ai_autonomyType=spdx.PresenceType.no,
        ai_domain=["natural language"],
        ai_typeOfModel=["transformer", release.config.model_type],
        ai_informationAboutApplication=release.about.model.get("use") or USE,
        ai_informationAboutTraining=stages,
        ai_limitation=" ".join(limits(release)),
        ai_metric=metrics,
        ai_hyperparameter=settings,
        ai_safetyRiskAssessment=spdx.ai_SafetyRiskAssessmentType.low,
        ai_useSensitivePersonalInformation=spdx.PresenceType.noAssertion,
        **({"ai_energyConsumption": energy} if energy else {}),
        **_package(spdx, agent, release, release.version, None),
    )


def hyperparameters(release: "Release") -> dict[str, Any]:
    """The few that matter, of every stage."""
    names = ("batch_size", "seq_len", "lr", "optimizer", "schedule", "steps", "dtype", "seed", "lora", "tasks")
    return {
        f"{stage.number}-{stage.verb} {name}": stage.value(name)
        for stage in release.chain.stages
        for name in names
        if stage.value(name) not in (None, "", (), 0) or name == "seed"
    }


def dataset_package(spdx: Any, base: str, info: Any, agent: Any, release: "Release", number: int, source: "SourceFacts") -> Any:
    """One source."""
    available = spdx.dataset_DatasetAvailabilityType
    hashed = [spdx.Hash(algorithm=spdx.HashAlgorithm.sha256, hashValue=source.sha256)] if source.sha256 else []
    author = spdx.Organization(_id=f"{base}author/{number}", creationInfo=info, name=source.attribution or "not stated")
    return spdx.dataset_DatasetPackage(
        _id=f"{base}data/{number}",
        creationInfo=info,
        name=f"{source.stage}: {source.name}",
        description=source.about or source.name,
        dataset_datasetType=[spdx.dataset_DatasetType.text],
        dataset_datasetSize=source.bytes or 0,
        dataset_datasetAvailability=available.directDownload if source.url else available.query,
        dataset_dataCollectionProcess="written by a seeded program"
        if source.synthetic
        else f"taken from {source.kind} {source.where}",
        dataset_hasSensitivePersonalInformation=spdx.PresenceType.noAssertion,
        dataset_intendedUse="training text of this model",
        software_packageVersion=source.version or "not versioned",
        software_downloadLocation=source.url or "urn:seekling:made-by-the-code",
        software_primaryPurpose=spdx.software_SoftwarePurpose.data,
        software_attributionText=[source.attribution or "not stated"],
        originatedBy=[author],
        builtTime=release.released,
        releaseTime=release.released,
        verifiedUsing=hashed,
    )
