// Calls methods of the client. Reads from stdin and writes to stdout one JSON document:
//
//     {"endpointUrl": url, "accessToken": key or null, "calls": [[method, arguments], ...]}
//     [{"answer": ...} or {"error": message, "status": of the response}, ...]
import { readFileSync } from "node:fs";
import { InferenceClient } from "@huggingface/inference";

const { endpointUrl, accessToken, calls } = JSON.parse(readFileSync(0, "utf8"));
const client = new InferenceClient(accessToken ?? "", { endpointUrl });

async function call([method, given]) {
	try {
		return { answer: await client[method](given) };
	} catch (error) {
		return { error: error.message, status: error.httpResponse?.status };
	}
}

const answers = [];
for (const one of calls) answers.push(await call(one));
process.stdout.write(JSON.stringify(answers));
