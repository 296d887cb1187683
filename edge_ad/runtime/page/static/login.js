const form = document.getElementById("login");
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const message = document.getElementById("message");
  try {
    const answer = await fetch("api/login", {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-EdgeAD": "1" },
      body: JSON.stringify({ token: document.getElementById("token").value }),
    });
    if (answer.ok) location.reload();
    else message.textContent = answer.status === 429 ? "Too many attempts; wait a minute." : "That is not the token.";
  } catch {
    message.textContent = "The inspector does not answer.";
  }
});
