// The parts that every view is made of. What a view imports comes from here; where each lies is this folder's own affair.

export { Chart, type ChartProps, type ChartSeries } from "./chart";
export { Button, Checkbox, Field, NumberInput, Select, TextArea, TextInput } from "./controls";
export { confirm, Dialog } from "./dialog";
export * from "./format";
export { Badge, Busy, ErrorNotice, Meter, Notice, toast, type Kind } from "./notices";
export { Plain } from "./plain";
export { usePolled, type Polled } from "./polled";
export { navigate, usePath } from "./route";
export { Table, type Column } from "./table";
export { Tabs } from "./tabs";
export { colour, useTheme } from "./theme";
export { useSession } from "../session";
