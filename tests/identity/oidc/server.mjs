// A real OpenID provider on 127.0.0.1 for the identity tests: https, discovery, JWT access tokens by client credentials.
//
// Usage: node server.mjs CERTIFICATE KEY
// It prints one JSON line a step: {"issuer": ...} when it listens, {"kid": ...} after each "rotate" line on standard
// input, which replaces the signing key by a new one. It ends when standard input does.
import { generateKeyPairSync, randomUUID, webcrypto } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer } from "node:https";
import { createInterface } from "node:readline";
import { Provider } from "oidc-provider";

const [certificate, key] = process.argv.slice(2).map((path) => readFileSync(path));
const say = (step) => process.stdout.write(`${JSON.stringify(step)}\n`);
let answer;

// Debian 12 has Node.js 18, which lacks these two globals of the later versions that the provider is made for.
globalThis.crypto ??= webcrypto;
URL.parse ??= (text, base) => {
  try {
    return new URL(text, base);
  } catch {
    return null;
  }
};

function start(issuer) {
  const kid = randomUUID();
  const { privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
  const provider = new Provider(issuer, {
    jwks: { keys: [{ ...privateKey.export({ format: "jwk" }), kid, use: "sig", alg: "RS256" }] },
    clients: [
      {
        client_id: "etl-07",
        client_secret: "made-up-for-this-test",
        grant_types: ["client_credentials"],
        redirect_uris: [],
        response_types: [],
      },
    ],
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (_context, resource) => ({
          scope: "call",
          audience: resource,
          accessTokenTTL: 3600,
          accessTokenFormat: "jwt",
          jwt: { sign: { alg: "RS256" } },
        }),
      },
    },
    extraTokenClaims: () => ({ groups: ["etl"] }),
    ttl: { ClientCredentials: 3600 },
  });
  answer = provider.callback();
  return kid;
}

const server = createServer({ cert: certificate, key }, (request, response) => answer(request, response));
server.listen(0, "127.0.0.1", () => {
  const issuer = `https://127.0.0.1:${server.address().port}`;
  start(issuer);
  say({ issuer });
  const lines = createInterface({ input: process.stdin });
  lines.on("line", (line) => line === "rotate" && say({ kid: start(issuer) }));
  lines.on("close", () => process.exit(0));
});
