// The view "Live".

export default function Live() {
  return <h1>Live</h1>;
}
