"""Lists of models: of a gateway's, everybody sees what they may ask for, and no other is found by name."""

from dataclasses import replace

from tests.doubles_http import MODEL, Client, Reply, make_app, run
from tests.scripted_gateway import ScriptedGateway, whole
from tests.unit.server.test_keys import entry

from headrace.core.backend import ModelCard
from headrace.core.request import Principal
from headrace.server.app import App
from headrace.server.keys import KeyRing


class ByTenant(ScriptedGateway):
    """Everybody may ask for the model that is called as their tenant."""

    def models_for(self, principal: Principal) -> tuple[ModelCard, ...]:
        return (replace(MODEL, id=f"of-{principal.tenant}"),)


def get(app: App, path: str, **headers: str) -> Reply:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    client = Client(app, "GET", path, headers={"authorization": "Bearer hr_user"} | given)

    async def main() -> None:
        await client.run()

    run(main())
    return client.reply


def test_a_list_has_what_its_caller_may_ask_for_and_nothing_else_is_found() -> None:
    ring = KeyRing(lambda: [entry("hr_user", "acme", "generate")])
    app = make_app(ByTenant(whole(b"{}")), keys=ring)
    assert [card["id"] for card in get(app, "/v1/models").json()["data"]] == ["of-acme"]
    theirs = get(app, "/v1/models", anthropic_version="2023-06-01").json()
    assert [card["id"] for card in theirs["data"]] == ["of-acme"]
    assert get(app, "/v1/models/of-acme").status == 200
    assert get(app, f"/v1/models/{MODEL.id}").status == 404
