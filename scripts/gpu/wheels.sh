#!/usr/bin/env bash
# Download wheels into .whl, which git ignores: what training needs on a machine with Python 3.12, torch and no internet.
set -euo pipefail
cd "$(dirname "$0")/../.."
pip=${PIP:-.venv/bin/pip}
platforms=$(printf -- '--platform %s ' manylinux_2_28_x86_64 manylinux_2_27_x86_64 manylinux_2_17_x86_64 manylinux2014_x86_64)
# shellcheck disable=SC2086
$pip download --quiet --no-deps --only-binary=:all: --python-version "${PYTHON_VERSION:-3.12}" --implementation cp $platforms -d .whl \
  av lightning-fabric structlog typer shellingham pydantic pydantic-core pydantic-settings annotated-types typing-inspection \
  python-dotenv rich
du -sh .whl
