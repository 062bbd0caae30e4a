"""Docker files cannot be run here: what can be checked without an engine is checked."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from service.keys import KeysError, check_exposure, is_loopback
from service.settings import Settings

ROOT = Path(__file__).parents[1]
DOCKERFILES = sorted((ROOT / "docker").glob("Dockerfile.*"))
FIELDS = {f"MMAD_{name.upper()}" for name in Settings.model_fields}


def installed_by(extra: str) -> set[str]:
    """Names of all packages an extra asks for, through the extras it is made of."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found: set[str] = set()
    for requirement in project["optional-dependencies"][extra]:
        name, _, extras = re.match(r"([\w-]+)(\[([\w,]+)\])?", requirement.lower()).groups()  # type: ignore[union-attr]
        found |= set().union(*(installed_by(one) for one in extras.split(","))) if name == "mmad" else {name}
    return found


def test_there_are_three_images() -> None:
    assert [path.name for path in DOCKERFILES] == ["Dockerfile.api", "Dockerfile.worker-cpu", "Dockerfile.worker-gpu"]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_what_is_copied_exists_and_nobody_is_root(path: Path) -> None:
    text = path.read_text()
    ignored = (ROOT / ".dockerignore").read_text()
    for source in [name for line in re.findall(r"^COPY (.*)", text, re.M) for name in line.split()[:-1]]:
        assert (ROOT / source).exists()
        assert f"!{source.split('/')[0]}\n" in ignored
    assert text.rindex("USER 10001") < text.rindex("CMD")
    assert set(re.findall(r"MMAD_\w+", text)) <= FIELDS


def test_images_hold_what_they_may() -> None:
    engines = {"torch", "onnxruntime", "onnxruntime-gpu", "openvino", "av"}
    assert installed_by("api") & engines == set()
    assert installed_by("worker") & engines == {"openvino", "av"}
    assert installed_by("gpu") & engines == {"onnxruntime-gpu", "av"}
    assert installed_by("serve") & engines == {"openvino", "av"}
    for path in DOCKERFILES:
        extra = {"api": "api", "worker-cpu": "worker", "worker-gpu": "gpu"}[path.suffix[1:]]
        installs = re.findall(r"pip install --no-cache-dir (.*)", path.read_text())
        assert installs == [f"--require-hashes --no-deps -r requirements/{extra}.txt", "--no-deps ."]


@pytest.mark.parametrize("name", ["api", "worker", "serve", "gpu", "dev"])
def test_the_lock_holds_what_an_extra_asks_for(name: str) -> None:
    text = (ROOT / f"requirements/{name}.txt").read_text()
    locked = set(re.findall(r"^([a-z0-9-]+)==", text, re.M))
    assert installed_by(name) - {"torch"} <= locked
    assert "torch" not in locked
    pins = re.split(r"\n(?=\S)", text.strip())
    assert all("--hash=sha256:" in pin for pin in pins if not pin.startswith("#"))


def test_compose_fits_the_images_and_settings() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    services = compose["services"]
    assert set(services) == {"redis", "api", "worker", "worker-gpu"}
    command = services["redis"]["command"]
    assert command[command.index("--appendonly") + 1] == "no"  # the store has the jobs
    assert services["worker-gpu"]["profiles"] == ["gpu"]
    for name, service in services.items():
        assert service["restart"] == "always"
        if name != "redis":
            assert (ROOT / service["build"]["dockerfile"]).exists()
            assert set(service["environment"]) <= FIELDS
            assert service["volumes"] == ["data:/data"]


def test_what_is_open_is_published_on_this_machine_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    api = yaml.safe_load(text)["services"]["api"]
    image = (ROOT / "docker/Dockerfile.api").read_text()
    environment = dict(re.findall(r"(MMAD_\w+)=(\S+)", image.split("\nENV ")[1].splitlines()[0]))
    for name, value in (environment | api["environment"]).items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert not is_loopback(settings.host)
    assert settings.allow_open
    assert all(is_loopback(port.rsplit(":", 2)[0]) for port in api["ports"])
    check_exposure(settings)
    with pytest.raises(KeysError, match="MMAD_ALLOW_OPEN=true"):
        check_exposure(settings.model_copy(update={"allow_open": False}))
