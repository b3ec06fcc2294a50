import { openPage } from "./main.js";

openPage();
