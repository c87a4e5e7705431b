"""SPDX 3.0.1, written through the bindings generated from its model, which refuse what the model does not allow."""

import io
from typing import TYPE_CHECKING, Any

from seekling.release.bom.shared import USE, description, identifier

if TYPE_CHECKING:
    from seekling.release.material import Release
    from seekling.release.sources import SourceFacts


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
        description=description(release),
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
