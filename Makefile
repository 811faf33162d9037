# Every target sets up what it needs in .venv.
PYTHON ?= python3
BIN := .venv/bin
DEMO := runs/demo
APP := $(BIN)/python -m apps.image_classification

.PHONY: demo test lint serve

demo: .venv/demo
	rm -rf $(DEMO)
	$(APP) train digits --run $(DEMO)/digits
	$(APP) evaluate --model $(DEMO)/digits
	$(APP) export --run $(DEMO)/digits
	$(APP) predict --explain --model $(DEMO)/digits --figure $(DEMO)/predictions.png
	@echo "card: $(DEMO)/digits/export/card.md"

test: lint
	$(BIN)/python -m pytest --numprocesses 2 --dist loadgroup

lint: .venv/test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy

serve: .venv/demo
	$(BIN)/python -m serving

.venv/%: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	@touch $@
