// What people write with OpenAI's client for Node: `node programs.mjs NAME URL` prints the answer.
import OpenAI from "openai";

const [, , name, url] = process.argv;
const client = new OpenAI({ baseURL: url, apiKey: "none" });
const messages = [{ role: "user", content: "Hi" }];
const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const said = "How is the weather in Vienna?";

const same = (first, second) => {
  if (first !== second) throw new Error(`${JSON.stringify(first)} is not ${JSON.stringify(second)}`);
  return first;
};

const programs = {
  // Chat completions, whole, as a stream, and as events.
  async node_chat() {
    const whole = await client.chat.completions.create({ model: "tiny", messages });
    let text = "";
    for await (const chunk of await client.chat.completions.create({ model: "tiny", messages, stream: true })) {
      text += chunk.choices[0].delta.content ?? "";
    }
    same(text, whole.choices[0].message.content);
    const events = client.chat.completions.stream({ model: "tiny", messages });
    return same(await events.finalContent(), text);
  },

  // A function is called, and its answer given.
  async node_tools() {
    let asked = "";
    const weather = ({ city }) => { asked = city; return "sunny"; };
    const runner = client.chat.completions.runTools({
      model: "tiny",
      messages: [{ role: "user", content: said }],
      tools: [{ type: "function", function: { name: "weather", function: weather, parse: JSON.parse, parameters } }],
    });
    const answer = await runner.finalContent();
    same(asked, "Vienna");
    return answer;
  },

  async node_completions() {
    return (await client.completions.create({ model: "tiny", prompt: "Hi" })).choices[0].text;
  },

  // Responses: a stream, what it comes to, and a conversation that goes on.
  async node_responses() {
    const stream = client.responses.stream({ model: "tiny", input: "Hi" });
    let text = "";
    stream.on("response.output_text.delta", (event) => { text += event.delta; });
    const first = await stream.finalResponse();
    same(text, first.output_text);
    same((await client.responses.retrieve(first.id)).output_text, text);
    const second = await client.responses.create({ model: "tiny", input: "Hi", previous_response_id: first.id });
    await client.responses.delete(first.id);
    return second.output_text;
  },

  async node_responses_tools() {
    const tools = [{ type: "function", name: "weather", parameters, strict: true }];
    const first = await client.responses.create({ model: "tiny", input: said, tools });
    const call = first.output.find((item) => item.type === "function_call");
    same(JSON.parse(call.arguments).city, "Vienna");
    const output = { type: "function_call_output", call_id: call.call_id, output: "sunny" };
    const next = { model: "tiny", input: [output], tools, previous_response_id: first.id };
    return (await client.responses.create(next)).output_text;
  },

  async node_models() {
    for await (const model of client.models.list()) return (await client.models.retrieve(model.id)).id;
  },
};

console.log(await programs[name]());
