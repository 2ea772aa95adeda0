// Where the page begins.

import { render } from "preact";
import { applyTheme } from "./kit/theme";
import { Shell } from "./shell";

applyTheme();
render(<Shell />, document.getElementById("page")!);
