# shellcheck shell=bash
# What the suites of both generations of kafka-python share.
sources=$home/kafka_python-$kafka_python
python=$home/python/bin/python

build() {
  if ! "$python" -c 'import pytest, pytest_mock, pytest_timeout, crc32c, lz4, snappy, zstandard' 2>/dev/null; then
    python3 -m venv python
    "$python" -m pip install --quiet pytest pytest-mock pytest-timeout crc32c lz4 python-snappy zstandard
  fi
  if [[ ! -f $sources/test/service.py ]]; then
    rm -rf "$sources"
    "$python" -m pip download --quiet --no-deps --no-binary :all: "kafka-python==$kafka_python"
    tar -xzf "kafka_python-$kafka_python.tar.gz"
    # A file of the tests is not in the sdist. Only this of it is used where there is a broker already.
    cat >"$sources/test/service.py" <<'PYTHON'
class ExternalService:
    def __init__(self, host, port):
        self.host = host
        self.port = port


class SpawnedService:
    def __init__(self, *arguments, **options):
        raise RuntimeError("there is a broker already")
PYTHON
  fi
  # Nor is this one; what is in it runs before every test.
  printf '%s\n' "$prepare" >"$sources/test/__init__.py"
}

# pytest, from the folder of the sources, whose tests are named below test/integration.
tests() {
  # The tests want a folder of Kafka's to be there, and do not look into it.
  (cd "$sources" && KAFKA_URI=kafka://$kafka KAFKA_VERSION=$kafka_version KAFKA_ROOT=$sources \
    "$python" -m pytest -p no:cacheprovider -W ignore --timeout=240 --timeout-method=signal "$@")
}

names() { tests --collect-only -q test/integration | sed -n 's|^test/integration/||p'; }

run() {
  serve
  local wanted
  mapfile -t wanted < <(sed 's|^|test/integration/|' "$1")
  # The log has what they print if they fail.
  tests -q -rA --tb=short "${wanted[@]}" >tests.log 2>&1 || true
  # XPASS: the suite thought that this one would fail.
  sed -nE 's#^X?PASS(ED)? test/integration/([^ ]*).*#\2#p' tests.log | sort -u >passed
  sed 's/^/passed /' passed
  grep -vxF -f passed "$1" | sed "s|^|failed |; s|\$|, see $home/tests.log|" || true
}
