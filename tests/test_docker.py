"""Dockerfiles, lock files and the compose file, checked without Docker."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from service.keys import KeysError, check_exposure, is_loopback
from service.settings import Settings

ROOT = Path(__file__).parents[1]
DOCKERFILES = sorted((ROOT / "docker").glob("Dockerfile.*"))
VARIABLES = {f"MMAD_{name.upper()}" for name in Settings.model_fields}


def resolve_extra(extra: str) -> set[str]:
    """Return the names of all packages of an extra, including nested extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    packages: set[str] = set()
    for requirement in project["optional-dependencies"][extra]:
        name, _, extras = re.match(r"([\w-]+)(\[([\w,]+)\])?", requirement.lower()).groups()  # type: ignore[union-attr]
        packages |= set().union(*(resolve_extra(nested) for nested in extras.split(","))) if name == "mmad" else {name}
    return packages


def test_dockerfiles_exist() -> None:
    assert [path.name for path in DOCKERFILES] == ["Dockerfile.api", "Dockerfile.worker-cpu", "Dockerfile.worker-gpu"]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_copied_files_exist_and_user_is_not_root(path: Path) -> None:
    text = path.read_text()
    ignored = (ROOT / ".dockerignore").read_text()
    for source in [name for line in re.findall(r"^COPY (.*)", text, re.M) for name in line.split()[:-1]]:
        assert (ROOT / source).exists()
        assert f"!{source.split('/')[0]}\n" in ignored
    assert text.rindex("USER 10001") < text.rindex("CMD")
    assert set(re.findall(r"MMAD_\w+", text)) <= VARIABLES


def test_images_install_only_their_engines() -> None:
    engines = {"torch", "onnxruntime", "onnxruntime-gpu", "openvino", "av"}
    assert resolve_extra("api") & engines == set()
    assert resolve_extra("worker") & engines == {"openvino", "av"}
    assert resolve_extra("gpu") & engines == {"onnxruntime-gpu", "av"}
    assert resolve_extra("serve") & engines == {"openvino", "av"}
    for path in DOCKERFILES:
        extra = {"api": "api", "worker-cpu": "worker", "worker-gpu": "gpu"}[path.suffix[1:]]
        installs = re.findall(r"pip install --no-cache-dir (.*)", path.read_text())
        assert installs == [f"--require-hashes --no-deps -r requirements/{extra}.txt", "--no-deps ."]


@pytest.mark.parametrize("name", ["api", "worker", "serve", "gpu", "dev"])
def test_lock_file_contains_packages_of_extra(name: str) -> None:
    text = (ROOT / f"requirements/{name}.txt").read_text()
    locked = set(re.findall(r"^([a-z0-9-]+)==", text, re.M))
    assert resolve_extra(name) - {"torch"} <= locked
    assert "torch" not in locked
    pins = re.split(r"\n(?=\S)", text.strip())
    assert all("--hash=sha256:" in pin for pin in pins if not pin.startswith("#"))


def test_compose_matches_images_and_settings() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    services = compose["services"]
    assert set(services) == {"redis", "api", "worker", "worker-gpu"}
    command = services["redis"]["command"]
    assert command[command.index("--appendonly") + 1] == "no"  # jobs are in the store
    assert services["worker-gpu"]["profiles"] == ["gpu"]
    for name, service in services.items():
        assert service["restart"] == "always"
        if name != "redis":
            assert (ROOT / service["build"]["dockerfile"]).exists()
            assert set(service["environment"]) <= VARIABLES
            assert service["volumes"] == ["data:/data"]


def test_open_api_is_published_on_loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
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
