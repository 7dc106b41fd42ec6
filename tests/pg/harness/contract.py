"""docs/openapi.yaml as a contract: every answer that any test gets is checked against it, status, content type and body."""

import functools
import os
import re

import jsonschema
import yaml

FILE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "..", "docs", "openapi.yaml")


class Contract:
    def __init__(self, document):
        self.document = document
        self.routes = {}  # (METHOD, template) -> operation
        self.templates = []
        for template, item in document["paths"].items():
            pattern = re.compile("^" + re.sub(r"\\{[^/]+?\\}", "[^/]+", re.escape(template)) + "$")
            self.templates.append((template, pattern))
            for method, operation in item.items():
                if method in ("get", "post", "put", "delete", "patch", "head", "options"):
                    self.routes[(method.upper(), template)] = operation

    def template(self, path):
        path = path.split("?")[0]
        exact = [template for template, _ in self.templates if template == path]
        found = exact or [template for template, pattern in self.templates if pattern.match(path)]
        return found[0] if found else None

    def resolve(self, node):
        while isinstance(node, dict) and "$ref" in node:
            target = self.document
            for part in node["$ref"].lstrip("#/").split("/"):
                target = target[part]
            node = target
        return node

    def responses(self, method, template):
        return {str(status): self.resolve(response) for status, response in self.routes[(method, template)]["responses"].items()}

    def check(self, method, path, answer):
        """Fails when the answer is one that the document does not have. Unknown paths and methods are only 404, 405 or 401."""
        template = self.template(path)
        if template is None or (method, template) not in self.routes:
            assert answer.status in (400, 401, 403, 404, 405), f"{method} {path} is not in docs/openapi.yaml, but gave {answer}"
            return
        responses = self.responses(method, template)
        assert str(answer.status) in responses, f"{method} {template} gave {answer.status}, which docs/openapi.yaml does not have: {answer}"
        for header, rule in responses[str(answer.status)].get("headers", {}).items():
            assert answer.headers.get(header) or not self.resolve(rule).get("required"), f"{method} {template} {answer.status} without {header}"
        content = responses[str(answer.status)].get("content", {})
        kind = (answer.headers.get("Content-Type") or "").split(";")[0]
        if content:
            assert kind in content, f"{method} {template} {answer.status}: content type {kind!r}, documented: {sorted(content)}"
            schema = content[kind].get("schema")
            if schema and kind == "application/json":
                self.validate(schema, answer, f"{method} {template} {answer.status}")

    def validate(self, schema, answer, where):
        resolver = jsonschema.RefResolver("", self.document)
        errors = sorted(jsonschema.Draft202012Validator(schema, resolver=resolver).iter_errors(answer.body), key=str)
        assert not errors, f"{where}: body against docs/openapi.yaml: {errors[0].message} at {list(errors[0].absolute_path)} in {answer}"


@functools.lru_cache(maxsize=None)
def contract():
    with open(FILE, encoding="utf-8") as file:
        return Contract(yaml.safe_load(file))
