// Where the page begins: its styles, and the shell in which every view appears.

import { render } from "preact";
import "./style/tokens.css";
import "./style/page.css";
import { Shell } from "./shell";

render(<Shell />, document.getElementById("page")!);
